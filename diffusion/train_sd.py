"""Trains Stable Diffusion on preference pairs with any f-divergence."""

try:
    from fdpo.programs.diffusion.train_sd import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
