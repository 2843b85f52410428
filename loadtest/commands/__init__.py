"""The commands of `python -m loadtest`, by what they ask.

Decided here: which options a command has, and where its page goes. `driving` sends load to a server that runs, `comparison` puts
Triton beside us, `survey` measures our servers alone, `questions` answers one question each. What is measured, and how, is in the
modules that they call.
"""
