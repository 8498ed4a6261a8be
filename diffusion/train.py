"""Trains an image model on preference pairs with any f-divergence."""

from fdpo.programs.diffusion.train import main

if __name__ == "__main__":
    main()
