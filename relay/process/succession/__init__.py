"""How a supervisor becomes the next release, or its own next configuration, without a pause.

adopted    A child of this process that an earlier program of it started
handover   What one program of the supervisor leaves to the next: sockets, children, the way back
outcome    What became of a reload, on disk, for whoever asked for it
rehearsal  Try the next program before anything depends on it
successor  Become it: rehearse, execute, and go back where it does not serve
"""
