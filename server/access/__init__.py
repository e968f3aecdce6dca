"""Who may do what, and how much of it: keys, rate limits and budgets."""
