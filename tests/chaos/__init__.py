"""The crash test: servers and their stores are killed again and again, and then everything that was seen is compared.

Nothing here looks into a server. What its clients were told, what its upstream was asked and what the store has in the
end must fit together.
"""
