"""What is wrong with a machine, an environment or a network, before a long run finds out.

`machine.examine` looks at the installation. `supervise.examine` looks at an environment and the
network that is to act in it, in a process of its own: it may hang, crash or print as it likes.
"""
