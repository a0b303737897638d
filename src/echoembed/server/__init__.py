"""The server: echo embeddings for clients of other embedding services, and a web page that shows how they work.

A request passes through these files in order: ``listen`` (sockets, signals), ``app`` and ``http`` (headers, bodies,
errors), ``routes`` and ``protocols`` (the forms of requests and answers), ``service`` (texts, prompts), ``queue``,
``worker`` (the model's thread), ``encoder`` (the model).
"""
