"""`python -m latent_shift`, and what `accelerate launch --module latent_shift train ...` starts."""

from latent_shift.cli.main import main

main()
