"""`python -m ardiffusion` is `ardiff`, as torchrun needs it."""

from ardiffusion.tools.command import main

if __name__ == "__main__":
    main()
