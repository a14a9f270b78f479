"""What is sold against what others have and ask: upstreams' lists, official prices.

coverage     What the catalog offers and cannot serve: models without a channel, without a price
listed       What upstreams list against what is sold: compared, and written where it is wanted
official     Official prices beside ours: what moved, what is proposed, and what is dearer than it
             may be
price_lists  Other people's price lists as declarations, so that they are compared and written like
             a file
"""
