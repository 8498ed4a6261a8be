"""Trains the small models of pretrained/ on MNIST: a DDPM, a flow model and a digit classifier."""

from fdpo.programs.diffusion.pretrain import main

if __name__ == "__main__":
    main()
