"""What channels keep for clients: who has what, and how calls find it.

adopted     Background jobs of workers that are gone: asked for by those that serve, settled
            once
background  Jobs that go on without their client: held once, settled once, when they end
batch_sum   The requests of a batch, read one by one: what all of them may use
batches     Batches before they begin: whose channel, what they may use; and an account's list
binding     Which channel a call has to go to, for what it refers to; and what it is told otherwise
bound       What binds one call to a channel
fetch       One question to a channel that no client asked for: gathered, or taken line by line
listed      The list of an account's videos: made here, each asked where it was made
looks       How a job stands: one look at it, and at what it has made where only that tells its use
owners      Who made what: keyed digests in this worker's memory, and in Redis for all of them
remembered  What clients had of background jobs before anybody counted them: for who settles
            those
remixed     A video that is begun out of another: what it costs is told by that one alone
stateful    Attempts that learn from their answers what their channel has made
"""
