"""The method of global placement: prices per site, one facility-location problem per app, a certificate."""
