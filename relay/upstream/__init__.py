"""The upstream's side of a call: HTTP/1.1 connections and their pool.

addresses     Which of an upstream's addresses is asked first, and a connection to the first that
              takes one
certificates  What is wrong with an upstream's certificate, in words that tell an operator what to
              do
connection    One keep-alive connection to an upstream: HTTP/1.1 responses off a socket, as bytes
descriptors   Whether any is left; what fails for want of one is our own fault
dns           Names of upstreams to addresses: off the loop's thread pool, cached, and never
              forgotten
egress        The way out to an upstream where it is not the plain one: a proxy, a CA or a
              certificate of ours
pool          The pool of upstream connections: idle ones kept per server, new ones dialled with TLS
              verified
tls           TLS to an upstream: an asyncio transport over a plain one, with OpenSSL in between
tls_sending   Its sending half: what is to be sent, encrypted as the socket takes it
tls_sessions  Sessions that upstreams gave: the next connection need not begin from nothing
"""
