"""Trains image models over a grid of losses and other options."""

from fdpo.programs.diffusion.sweep import main

if __name__ == "__main__":
    main()
