"""How the sensors become one: a file for each strategy, `strategy.py` what they share, `build.py` the choice."""
