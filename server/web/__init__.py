"""The chat page at `/`: a web application that runs in browsers, on the client library, and the files it is made of."""
