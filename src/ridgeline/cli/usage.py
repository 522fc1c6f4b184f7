"""The first page."""

USAGE = """\
usage: ridgeline train ALGORITHM ENVIRONMENT [options]    train, judge and report
       ridgeline resume RUN [options]                     go on with a run that was stopped or killed
       ridgeline evaluate RUN [options]                   play greedy episodes with a run's policies
       ridgeline check-env ENVIRONMENT [options]           whether an environment keeps its promises
       ridgeline verify [SYSTEM] [--full]                  prove a system, all of them, or module:Class of your own
       ridgeline list                                      algorithms and environments
       ridgeline doctor                                   what this machine has, and whether JAX computes rightly

`ridgeline train ppo CartPole-v1 --help` lists every option with its preset. An environment is an id
(CartPole-v1, LunarLander-v3), `module:Id`, or `module:callable` of your own."""
