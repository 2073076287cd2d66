"""Workers: confined processes that do all work on a frame outside the engine, job by job.

    service ── asks for one ──▶ nursery ──fork──▶ worker ◀── jobs, over a channel of its own ──▶ service

An image that makes one loop, exhaust memory or crash ends only that process. The nursery has done all
imports, so a new worker starts within milliseconds.

In the service:     front ──▶ pool ──▶ job, channel; starting asks the nursery
In the processes:   nursery ──▶ work ──▶ image, channel
"""
