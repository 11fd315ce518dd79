"""``tocsin project``: the projects of DSS."""

from tocsin.cli import show
from tocsin.cli.dss.address import shown
from tocsin.cli.dss.session import Session
from tocsin.cli.verb import JsonOption, typer_app, verb
from tocsin.dss.fields import get_text, only_texts

app = typer_app()


@verb(app, "list")
async def list_projects(session: Session, as_json: JsonOption = False) -> None:
    """List the projects that the credentials may see."""
    rows = [
        {
            "address": shown(node, project["projectKey"]),
            "node": node,
            "project": project["projectKey"],
            "name": get_text(project, "name"),
            "owner": get_text(project, "ownerLogin"),
            "status": get_text(project, "projectStatus"),
            "tags": only_texts(project.get("tags")),
        }
        for node in session.nodes
        for project in await session.client(node).list_projects()
    ]
    show.rows(rows, ("address", "name", "owner", "status", "tags"), as_json=as_json)
