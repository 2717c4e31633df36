"""Learning on the device: what is learnt, what is remembered, who drives, and a state that survives.

From the files to a robot that is driven:

    bundle, store ─▶ archive, origin ─▶ loading ─▶ learner ─▶ session
                                           │          ├─ champion, challenger    the two policies
                                           │          ├─ updates                 of the challenger, in slices
                                           │          ├─ experience              transitions, as the engine reads them
                                           │          └─ history                 counters and trials
                                        memory        how much of it all there is

`replay` is the memory of a run on the workstation; `companions` are the threads beside the one that drives.
"""
