"""What writes the replies: OpenAI and whatever speaks its protocol, or the scripted one."""
