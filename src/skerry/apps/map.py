"""`skerry map` for people: where the map is, and how to be let in."""

import webbrowser

from skerry.apps.client import Client


def print_map(client: Client, *, open_browser: bool) -> None:
    who = client.whoami()  # says now, and not in the browser, when nothing answers
    url = client.target.map_url
    print(f"The map is at {url}")
    if open_browser and not webbrowser.open(url):
        print("There is no browser on this machine to open it in.")
    print("It asks for a token once, and keeps it until its tab is closed. One that may only look:")
    account = "" if who.account is None else f" --account {who.accounts[0].name}"
    print(f"  skerry token create map --scope read{account}")
