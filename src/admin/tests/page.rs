//! The page through the router: its files and their headers, who is let in, what a browser may send.

use super::*;

const FILES: [&str; 4] = ["/", "/page/page.css", "/page/page.js", "/page/icon.svg"];

#[tokio::test]
async fn its_files_come_with_a_policy_that_lets_nothing_else_in() {
    let site = Site::new();
    for path in FILES {
        let answer = site.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        for part in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(
            (header("x-content-type-options"), header("referrer-policy")),
            ("nosniff".into(), "no-referrer".into())
        );
    }
    assert_eq!(site.get("/").await.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(site.get("/page/page.js").await.headers["content-type"], "text/javascript; charset=utf-8");
    assert_eq!(site.get("/page/nothing.js").await.status, 404);
    assert_eq!(site.post("/", "{}").await.status, 405);
}

#[tokio::test]
async fn a_browser_gets_the_page_without_a_token_and_nothing_else() {
    let site = Site::guarded();
    for path in FILES {
        assert_eq!(site.send(open(), "GET", path, &[], "").await.status, 200, "{path}");
    }
    for path in ["/api/v1/rollouts", "/api/v1/stream", "/api/v1/rollouts/chat/history", "/metrics", "/page/nothing.js"]
    {
        assert_eq!(site.send(open(), "GET", path, &[], "").await.status, 401, "{path}");
    }
    let session = async |authorization: &str| {
        site.send(open(), "GET", "/page/session", &[("authorization", authorization)], "").await.json()
    };
    assert_eq!(session("").await, json!({ "role": null, "token": true }));
    assert_eq!(session("Bearer wrong").await, json!({ "role": null, "token": true }));
    assert_eq!(session("Bearer 0123456789abcdef0123456789abcdef").await, json!({ "role": "operate", "token": true }));
    assert_eq!(session("Bearer fedcba9876543210fedcba9876543210").await, json!({ "role": "read", "token": true }));
    assert_eq!(Site::new().get("/page/session").await.json(), json!({ "role": "operate", "token": false }));
}

#[tokio::test]
async fn a_name_that_is_not_weirs_gets_nothing_of_it() {
    let site = Site::new();
    for path in ["/", "/page/page.js", "/page/session", "/api/v1/stream", "/api/v1/rollouts/chat/history"] {
        let request = Request::get(path).header("host", "rebound.example").body(Body::empty()).unwrap();
        let response = router(site.handle.clone(), open(), site.feed.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 403, "{path}");
    }
}

#[tokio::test]
async fn every_action_wants_the_own_page_json_and_the_role() {
    let site = Site::guarded();
    let (json, token) =
        (("content-type", "application/json"), ("authorization", "Bearer 0123456789abcdef0123456789abcdef"));
    let own = ("origin", "http://127.0.0.1:9900");
    for act in ["pause", "resume", "promote", "rollback", "approve", "weight", "kill", "revive"] {
        let path = format!("/api/v1/rollouts/chat/{act}");
        let status = async |headers: &[(&str, &str)]| site.send(open(), "POST", &path, headers, "{}").await.status;
        assert_eq!(status(&[own, json]).await, 401, "{act}");
        assert_eq!(
            status(&[own, json, ("authorization", "Bearer fedcba9876543210fedcba9876543210")]).await,
            403,
            "{act}"
        );
        assert_eq!(status(&[("origin", "http://evil.example"), json, token]).await, 403, "{act}");
        assert_eq!(status(&[("sec-fetch-site", "cross-site"), json, token]).await, 403, "{act}");
        assert_eq!(status(&[own, ("content-type", "text/plain"), token]).await, 415, "{act}");
        assert!([200, 400, 409].contains(&status(&[own, json, token]).await), "{act}: the engine's word");
    }
}
