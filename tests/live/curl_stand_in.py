"""Stands in for curl where there is none: POSTs as `curl -N URL -H NAME:VALUE -d BODY` would.

What is tried with it is the printed command: its quoting, its flags, its address.
"""

import argparse
import http.client
import sys
from urllib.parse import urlsplit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-N", "--no-buffer", action="store_true")
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-d", "--data", required=True)
    asked = parser.parse_args()
    url = urlsplit(asked.url)
    headers = dict(header.split(": ", 1) for header in asked.header)
    connection = http.client.HTTPConnection(url.netloc, timeout=20)
    connection.request("POST", url.path, asked.data.encode(), headers)
    answer = connection.getresponse()
    while chunk := answer.read1():
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    connection.close()


if __name__ == "__main__":
    main()
