"""One call from start to end; drivers are known only as the Protocols in ports.py."""
