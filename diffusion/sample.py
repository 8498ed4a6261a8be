"""Draws samples of an image model, and says what they show."""

from fdpo.programs.diffusion.sample import main

if __name__ == "__main__":
    main()
