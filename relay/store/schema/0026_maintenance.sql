-- What the night's works did last, and what operators ask of the night.

-- One row a work, for what one host does for all; one a work and host for what each does itself.
CREATE TABLE maintenance_works (
    work       text NOT NULL,
    host       text NOT NULL,  -- '' where it is done for all
    done_by    text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz,    -- NULL: it runs, or its host died over it
    outcome    text NOT NULL,  -- running, done, stopped (the night was over), failed
    detail     text NOT NULL,
    PRIMARY KEY (work, host)
);

-- One row: the latest wish of each kind.
CREATE TABLE maintenance_wishes (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    run_asked_at timestamptz,             -- run now what is named, whatever the clock says
    run_works    text[] NOT NULL DEFAULT '{}',
    skip_until   timestamptz              -- no night opens before
);
INSERT INTO maintenance_wishes DEFAULT VALUES;
