"""A real browser at the web dashboard: Debian's Chromium, driven by Playwright, and what it complains of."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

if TYPE_CHECKING:
    from people import Person

PROGRAM: Final = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE: Final = 30_000  # milliseconds; what is waited for is there in some tens
SCHEMES: Final = ("light", "dark")
WIDTHS: Final = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 375, "height": 812}}
_TELL_VIOLATIONS: Final = """
document.addEventListener("securitypolicyviolation", e =>
  console.error(`the policy forbids ${e.blockedURI} (${e.violatedDirective}) ${e.sourceFile}:${e.lineNumber} ${e.sample}`));
"""
_RULES: Final = {"resultTypes": ["violations"]}


class Window:
    """A browser by itself as far as cookies go. `complaints`: errors of its console and of scripts, what a page's policy forbade, dialogs;
    `elsewhere`: what was asked of others than the controller."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self._refused: set[str] = set()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("request", self._asked)
        page.on("dialog", self._shown)

    def _said(self, message: ConsoleMessage) -> None:
        where = message.location.get("url", "")
        if message.type in ("error", "warning") and where not in self._refused:
            self.complaints.append(f"{self.page.url}: {message.text} ({where})")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.url + "/", "data:")):
            self.elsewhere.append(request.url)

    async def _shown(self, dialog: Any) -> None:
        self.complaints.append(f"{self.page.url}: a script ran: {dialog.message}")
        await dialog.dismiss()

    def may_refuse(self, url: str) -> None:
        """A page that is refused is itself an error of the console: that of this one is no complaint."""
        self._refused.add(url)

    async def open(self, path: str, status: int = 200) -> None:
        if status >= 400:
            self.may_refuse(self.url + path)
        answer = await self.page.goto(self.url + path)
        assert answer is not None and answer.status == status, (path, answer and answer.status)

    async def sign_in(self, who: Person) -> None:
        await self.open("/web/sign-in")
        await self.page.get_by_label("E-mail address").fill(who.email)
        await self.page.get_by_label("Password", exact=True).fill(who.password)
        await self.page.get_by_role("button", name="Sign in", exact=True).click()
        await self.page.wait_for_url(self.url + "/web/")

    async def text(self) -> str:
        """What is read there, in fields too."""
        read = "() => document.body.textContent + [...document.querySelectorAll('input')].map(e => e.value).join(' ')"
        return str(await self.page.evaluate(read))

    async def look(self, scheme: str, width: str) -> None:
        await self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        await self.page.set_viewport_size(WIDTHS[width])  # type: ignore[arg-type]

    async def wider_than_it(self) -> int:
        """By how many pixels the page has to be scrolled sideways."""
        return int(
            await self.page.evaluate(
                "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
        )

    async def barriers(self) -> list[str]:
        """What axe finds that keeps people out, serious or critical."""
        found = await Axe().run(self.page, options=_RULES)
        return [
            f"{broken['id']} ({broken['impact']}): {node['html'][:200]} {node['failureSummary'][:300]}"
            for broken in found.response["violations"]
            if broken["impact"] in ("serious", "critical")
            for node in broken["nodes"]
        ]


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    if PROGRAM is None:
        pytest.skip("BROWSER TESTS NOT RUN: they need Chromium (apt-get install chromium)")
    options = ["--no-proxy-server", "--disable-background-networking"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # it has none for root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PROGRAM, args=options, timeout=60_000)
        yield browser
        await browser.close()


@asynccontextmanager
async def window(chromium: Browser, url: str, **options: Any) -> AsyncIterator[Window]:
    """Whoever made the certificate is of no interest here."""
    context = await chromium.new_context(ignore_https_errors=True, viewport=WIDTHS["desktop"], **options)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    await context.add_init_script(_TELL_VIOLATIONS)
    try:
        yield Window(await context.new_page(), url)
    finally:
        await context.close()
