"""Trains Stable Diffusion on preference pairs with any f-divergence."""

from fdpo.programs.diffusion.train_sd import main

if __name__ == "__main__":
    main()
