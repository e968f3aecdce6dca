"""The crash test: servers and their stores are killed repeatedly, and then all observations are compared.

Nothing here looks into a server. What the clients received, what the upstream was asked and what the store has in the
end must agree.
"""
