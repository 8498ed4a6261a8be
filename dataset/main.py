"""Makes preference data: prompts, completions of a model, scores, pairs by rank, train and test."""

from fdpo.programs.dataset.main import main

if __name__ == "__main__":
    main()
