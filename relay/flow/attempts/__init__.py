"""One try on one channel, and how its answer goes out.

attempt   One try of one call on one channel: what every way of carrying an answer has in common
buffer    What is held back of an answer until it is sure whom it is for
failed    What is remembered of attempts that failed: enough for an operator to see why a call took
          long
plain     A plain body, JSON or audio, on its way to the client
spliced   A second attempt that carries a broken stream on: its events become those of the first
          stream
stream    The pump: carries an event stream to the client as it comes, inside the socket's callback
tail      What is remembered of an answer while it passes: enough to judge its ending and find its
          usage
unframed  An answer in AWS's frames, told to its attempt as the events that are in them
"""
