"""What workers tell each other about channels, over Redis.

gossip   What the workers tell each other about their channels' health, over Redis
listing  How every channel stands, for those who only look: read from what the workers keep in Redis
sharing  A worker's part in the gossip: it tells what it finds out about channels, and believes the
         rest
"""
