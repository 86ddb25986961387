"""A replay for many machines: the tables in Ray actors, the same calls from everywhere.

An actor has the control: items, limiters, log. Small data lies with it; large data in Ray's object store, put there
once a group by the actor, and read where it is asked for. Blocked calls wait in the actor, where `info` sees them.
"""
