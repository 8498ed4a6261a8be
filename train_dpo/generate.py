"""Prints samples of a language model."""

try:
    from fdpo.programs.train_dpo.generate import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
