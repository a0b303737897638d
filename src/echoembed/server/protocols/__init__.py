"""What the clients of other services send, and what they read: a file for each of those services.

Each file holds what a request may say, as a pydantic model, and a function that turns it into an answer.
"""
