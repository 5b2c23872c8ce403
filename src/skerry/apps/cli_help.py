"""`skerry --help`: commands under what one wants to do, most used first."""

from typer._click import Context, HelpFormatter  # typer gives them no public names
from typer.core import TyperGroup

SECTIONS: dict[str, tuple[str, ...]] = {
    "A platform": ("up", "status", "doctor", "backup", "restore", "down"),
    "Apps": ("wrangler", "env", "run", "deploy", "apps", "scale", "rollout", "delete"),
    "What they do": ("instances", "logs", "exec", "cp", "top", "demand"),
    "Where, and why": ("explain", "map", "plan", "settings"),
    "Cities and nodes": ("sites", "nodes", "drain", "undrain", "maintenance"),
    "Who may": ("account", "token"),
    "Worlds, without a platform": ("world", "place", "sim"),
}


class Sections(TyperGroup):
    """A command of no section is shown last, so that none is ever hidden."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        known = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in known)
        width = max(map(len, self.list_commands(ctx)))
        for title, names in (*SECTIONS.items(), ("Others", others)):
            found = [(name, command) for name in names if (command := self.get_command(ctx, name)) and not command.hidden]
            if not found:
                continue
            limit = formatter.width - 6 - width
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), command.get_short_help_str(limit)) for name, command in found])
