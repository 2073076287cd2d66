"""Workers: confined processes that do all work on an image outside the engine, job by job.

    service ── asks for one ──▶ fork server ──fork──▶ worker ◀── jobs, over a channel of its own ──▶ service

An image that makes one loop, exhaust memory or crash ends only that process. The fork server has done all
imports, so a new worker starts within milliseconds.

In the service:     workers ──▶ pool ──▶ job, channel; starting asks the fork server
In the processes:   forkserver ──▶ worker ──▶ image, channel
"""
