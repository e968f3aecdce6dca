"""The soak test: many clients ask for a while, one worker is killed again and again, and somebody hostile floods.

Each client has a key of its own and repeats what was not answered. In the end the answers that the clients received,
the histories and the calls to the upstream must agree.
"""
