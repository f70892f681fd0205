"""From configuration that nodes have today to objects of this project: text in, documents and notes out.

One module a format. Each gives drafts; ``documents`` makes objects of them. What a format says and the API cannot is a
note, never dropped in silence. Nothing here touches a disk: files that a configuration names come through a callable.
"""
