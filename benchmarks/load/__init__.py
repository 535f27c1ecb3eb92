"""Many people at once, more and more of them: how long they wait, and from which rate on too long.

- `plan` says how many come when, and what they know of the catalogue;
- `users` is what they do, for locust, and `recorder` writes down what came of it in each of its processes;
- `figures` makes levels and moments of that;
- `report` makes a page of those, and `picture` draws them.
"""
