-- Pictures of receipts that holders of orders show to support: one of each order, for as long as the
-- order is there. They are pressed already, so Postgres need not try.
CREATE TABLE order_pictures (
    order_no     text PRIMARY KEY REFERENCES orders,
    content_type text NOT NULL
        CHECK (content_type IN ('image/png', 'image/jpeg', 'image/webp', 'application/pdf')),
    body         bytea NOT NULL CHECK (octet_length(body) BETWEEN 1 AND 4194304),
    created_at   timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE order_pictures ALTER COLUMN body SET STORAGE EXTERNAL;

-- Who a user is at an identity provider: known from the first sign-in on, which goes by a verified
-- e-mail. Another person who was given the address later is not this user.
CREATE TABLE user_identities (
    user_id    bigint NOT NULL REFERENCES users,
    issuer     text NOT NULL CHECK (issuer <> ''),
    subject    text NOT NULL CHECK (subject <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, issuer)
);
