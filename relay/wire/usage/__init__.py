"""What an answer used: found in its bytes, read however it is written, counted our way. Pure.

claims            A usage object as an upstream wrote it, read however it is written: floats,
                  strings, odd parts
conventions       The conventions by which providers count, brought into ours: one function each
counted           How many tokens of an answer are out, as its model counts them: learned from whole
                  answers
delivered_tokens  How many tokens an answer holds, where nobody says: from a stream's last events,
                  or a body
reader            What an answer used, found in its last bytes, nearly always without decoding it
shapes            The shapes that usage has on the wire, by every name that a dialect gives to a
                  count
"""
