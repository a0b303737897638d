"""Requests and answers in the form of other services' clients: a file for each service.

Each file holds what a request may say, as a pydantic model, and a function that turns it into an answer.
"""
