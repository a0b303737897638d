"""Requests and answers in the forms of other services, with a file for each service.

Each file has pydantic models of requests, and for each route a function from the request to the answer.
"""
