"""Trains the small models of pretrained/ on MNIST: a DDPM, a flow model and a digit classifier."""

try:
    from fdpo.programs.diffusion.pretrain import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
