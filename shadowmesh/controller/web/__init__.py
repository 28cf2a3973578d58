"""The web dashboard (`controller run --web`): pages made by the server, beside the REST API and unknown to it.

`application` puts it together; `visits` is who looks at a page, by their cookie; `needs` what a page takes, declared in its
signature as REST routes declare it; `forms` what is posted, and that it came from a page of ours; `rendering` the pages.
What pages show and do is the services' own: nothing here looks at the store.
"""
