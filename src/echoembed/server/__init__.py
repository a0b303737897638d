"""The server: echo embeddings behind the interfaces that clients of other services call, and a page to see them.

A request flows down this list: ``listen`` (sockets, signals), ``app`` and ``http`` (headers, bodies, errors),
``routes`` and ``protocols`` (what is asked, what is answered), ``service`` (texts, prompts), ``queue``, ``worker``
(the model's thread), ``encoder`` (the model).
"""
