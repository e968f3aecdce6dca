"""What generates the replies: OpenAI, servers that speak its protocol, or the demonstration."""
