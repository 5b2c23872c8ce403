"""A server that answers Firecracker's API as version 1.17 does, texts included, with no machine behind it.

    schema    what bodies may be, and how a wrong one is refused
    machine   what each call does, in which state: a machine without I/O, but for looking whether files are there
    server    HTTP as Firecracker's own parser speaks it, on a Unix socket

It is held against pairs recorded from the real one (tests/contract/firecracker-transcripts.jsonl).
"""
