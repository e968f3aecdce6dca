"""Tables in Markdown, as the README of this folder has them."""


def print_table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    print(f"\n## {title}\n")
    for row in (heads, ["---"] * len(heads), *rows):
        print(f"| {' | '.join(row)} |")
