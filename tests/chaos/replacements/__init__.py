"""Conversations whose last turn is regenerated and edited while servers are killed: clients, evidence and rules."""
