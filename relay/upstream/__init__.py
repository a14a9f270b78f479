"""The upstream's side of a call: HTTP/1.1 connections and their pool.

connection  One keep-alive connection to an upstream: HTTP/1.1 responses off a socket, as bytes
dns         Names of upstreams to addresses: off the loop's thread pool, cached, and never forgotten
pool        The pool of upstream connections: idle ones kept per server, new ones dialled with TLS
            verified
"""
