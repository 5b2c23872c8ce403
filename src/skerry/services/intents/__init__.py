"""What developers ask for: uploads, deployments, secrets, assets, deletion.

    dialect → Upload → draft (pure: upload + previous version → Version) → Checker → one transaction → Evaluation

Every change of an app is one store transaction, checked against the app's revision and repeated when another got
in between. `deploy` writes version, deployment, app and evaluation together: a kill at any moment leaves either the
old state or the new one.
"""
